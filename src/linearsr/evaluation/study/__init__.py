"""A preference study: one page to show to people, and the figures from the answers they send back."""
