"""What `train.py` and `sample.py` do, from their flags to their last line."""
