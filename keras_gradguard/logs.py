"""Step 1: the logs of a step, with one entry more than Keras knows of."""


class Logs(dict):
    """Logs that Keras takes at the end of an epoch as it would without us.

    If their names are those of the model's metrics, Keras takes the results
    of the metrics instead. Our entry must not hide that they are, so the
    values are exchanged here; Keras asks for the names at no other time.

    Args:
        model: The model that trains.
        logs: What `train_function` returned.
        own: Name of our entry.
    """

    def __init__(self, model, logs, own):
        super().__init__(logs)
        self._model = model
        self._own = own

    def keys(self):
        """Returns the names."""
        results = self._model.get_metrics_result()
        if self._own not in results and {*results, self._own} == {*self}:
            self.update(results)
        return super().keys()
