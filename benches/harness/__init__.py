"""The side-by-side benchmark: Linnet and its peers, measured alike in one run."""
