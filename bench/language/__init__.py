"""What language models cost and reach: runs, speed and their report."""
