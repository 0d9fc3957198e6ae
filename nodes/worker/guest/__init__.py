"""A guest worker, under a user's own interpreter: see `__main__`. Nothing here needs more than the standard library of Python 3.9."""
