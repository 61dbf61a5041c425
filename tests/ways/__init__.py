"""Every way that Keras trains, with the guard and without."""
