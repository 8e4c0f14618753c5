"""TSLRec (arXiv 2406.00333; P2Rec in its later version), the two-stage paradigm."""
