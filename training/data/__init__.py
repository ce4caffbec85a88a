"""The registry of data sets. One file and one entry each.

Contract: load(options: DataOptions, root: Path) -> (training, test), two image sets as image_set.py
describes them. Missing files raise UserError: where it looked and how to get them.
"""

DATASETS = {
    "digits": "training.data.digits:load",
    "cifar10": "training.data.torchvision_sets:load_cifar10",
    "cifar100": "training.data.torchvision_sets:load_cifar100",
    "fashion-mnist": "training.data.torchvision_sets:load_fashion_mnist",
    "tiny-imagenet": "training.data.tiny_imagenet:load",
    "folder": "training.data.folder:load",
}

ANY_SIZE = ("tiny-imagenet", "folder")  # those that are resized to data.image_size
