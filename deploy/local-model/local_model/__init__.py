"""What `get` is made of: a server (engine), a model's weights (weights), and the folder that they live in (place)."""
