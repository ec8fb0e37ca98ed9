"""What labels alone give: the baseline that a pretrained backbone has to beat."""
