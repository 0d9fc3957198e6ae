"""Worker processes: home workers in the node's own environment, guest workers under a user's interpreter."""
