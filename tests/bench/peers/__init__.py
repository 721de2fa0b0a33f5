"""Other programs that run the same checkpoint on a CPU: `make bench PEERS=1`.

Each is first held to be the same computation (same.py), then timed in turn with ours and with
transformers (lines.py).
"""
