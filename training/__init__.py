"""What happens to tensors: data, models, mixing, losses, the probe and the training loop.

Start reading at train.py. Importing this package does not import torch.
"""
