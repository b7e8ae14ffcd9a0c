"""The Python side of a Kernelbox sandbox: the zygotes that fork kernels, the kernel itself, and the scanner of imports.

Nothing beyond ipykernel and what it brings is needed. The supervisor carries these files and writes them out where it
runs.
"""
