"""What is written of kept cells: tables, pictures, one page."""
