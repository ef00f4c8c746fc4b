"""The task `hierarchy`: a classifier over a label tree, with unknown labels and blocks of metadata."""
