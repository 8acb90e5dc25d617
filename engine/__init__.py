"""f2f.engine"""
