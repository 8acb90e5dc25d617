"""Saliency, which says what is background: DSS, its training and scores, released networks by our contract."""
