"""Reads vectors that other programs made, with references and metadata, from npz, npy, Parquet, JSONL, CSV and COPY."""
