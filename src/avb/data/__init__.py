"""Data sets as three numpy splits: built in, from IDX files, array files or image folders."""

from avb.data._binarise import binarise_once as binarise_once
from avb.data._dataset import Dataset as Dataset
from avb.data._load import load_dataset as load_dataset
