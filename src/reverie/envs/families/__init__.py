"""Environment families, one file each; the docstring of `..family` explains how to write one."""
