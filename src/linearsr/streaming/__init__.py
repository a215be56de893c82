"""An image's way in strips of rows, in bounded memory; one strip is the whole image."""
