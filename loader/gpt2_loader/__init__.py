"""Reads GPT-2 models in Hugging Face's layout and loads them into the gpt2 extension.

Both importers use the modules errors, files, safetensors_header, vocabulary, checkpoint,
copy_binary and importer: the command line (cli, client) and the server's gpt2_load_model(),
into which the extension's build copies them. Those modules need Python 3.9 and numpy only.
"""
