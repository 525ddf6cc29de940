"""What both sides of the queue must agree on. Imports nothing of ours."""
