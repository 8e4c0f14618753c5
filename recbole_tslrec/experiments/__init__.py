"""The paper's experiments (§5): grids, reports, efficiency. Nothing imports it but commands."""
