"""The images, built and run by a real Docker: what only a container shows. `make images`."""
