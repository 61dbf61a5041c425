"""From a frame or a layer to the user's line."""
