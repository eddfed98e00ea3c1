"""What environments give and algorithms take, and where it is kept."""
