"""f2f.kernels"""
