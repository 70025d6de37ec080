"""How a report is set: blocks, figures, markdown, HTML and drawings."""
