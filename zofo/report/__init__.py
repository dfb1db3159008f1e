"""What a run tells people: the terminal, the plot and the model card."""
