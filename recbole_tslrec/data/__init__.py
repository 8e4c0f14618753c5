"""What is read of the data: histories, and what a file must not hold."""
