"""Step 5, read back: the diagnoses below a TensorBoard log folder."""

import pathlib

from keras_gradguard.report.scalars import RUN


def logged_cards(folder):
    """Returns the cards of a log folder as text, in the order of writing.

    Args:
        folder: Folder that was given as `log_dir`, or one above it.

    Returns:
        A text: each card in Markdown, below its run and step.

    Raises:
        ValueError: If nothing was logged there.
    """
    folder = pathlib.Path(folder)
    files = sorted(
        folder.rglob("events.out.tfevents.*gradguard"),
        key=lambda file: (file.parent, file.stat().st_mtime),
    )
    if not files:
        raise ValueError(
            f"no log of GradHealthCallback below {str(folder)!r}. Expected "
            "the folder that was given as `log_dir`"
        )
    cards = [card for file in files for card in _cards(file)]
    return "\n\n".join(cards) or f"no diagnosis below {folder}"


def _cards(file):
    # Slow to import, and a stored report does not need it.
    from tensorboard.backend.event_processing import event_file_loader

    for event in event_file_loader.EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            if value.tag.startswith(f"{RUN}/diagnoses/"):
                text = value.tensor.string_val[0].decode()
                yield f"{file.parent}, step {event.step}:\n\n{text}"
