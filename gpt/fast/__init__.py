"""What makes a step fast: several processes, threads and memory, mixed precision, a CUDA graph."""
