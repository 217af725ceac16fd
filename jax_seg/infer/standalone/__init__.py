"""Scripts that an export takes along as they are: they import nothing of this project."""
