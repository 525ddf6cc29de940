"""Workers die at any moment; requests do not, and the books balance."""
