"""POD (CIKM 2023): P5's words distilled into a few learned vectors a task."""
