"""The entry point `tensorboard_plugins`.

An exception in here would keep TensorBoard from starting, so it imports
nothing but what TensorBoard has imported itself.
"""

from tensorboard.plugins import base_plugin
from tensorboard.util import tb_logging

_logger = tb_logging.get_logger()
PLUGIN = "keras_gradguard"
# More than a run ever has, see `report.thinning`: TensorBoard would leave out
# records by chance, and with them the spike of one step.
MOST_RECORDS = 20_000


class GradGuardLoader(base_plugin.TBLoader):
    """Makes the plugin, and has TensorBoard keep all of our records."""

    def fix_flags(self, flags):
        """Sets how many records are kept; the user's own number wins.

        Args:
            flags: The parsed flags of TensorBoard.
        """
        known = getattr(flags, "samples_per_plugin", None)
        if not isinstance(known, dict):
            known = {}
        flags.samples_per_plugin = {PLUGIN: MOST_RECORDS, **known}

    def load(self, context):
        """Returns the plugin, `None` if it cannot be made: there is no tab.

        Args:
            context: A `TBContext`.
        """
        try:
            from keras_gradguard.view.plugin import GradGuardPlugin

            return GradGuardPlugin(context)
        except Exception:
            _logger.exception("keras_gradguard failed (GG900): no tab of it")
            return None
