"""f2f.training"""
