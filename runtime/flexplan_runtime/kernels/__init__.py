"""Kernels: Triton for the GPU, C++ for the host, and what stands in for them.

Each is imported by its file, as some need a compiler.

attention_rule           What attention makes of the products of queries and keys: scale, window, caps, sinks, slopes.
availability             Is the compiler of the CUDA kernels there?
codes                    Codes of a checkpoint to numbers, where no GPU decodes them.
decode_attention         Decode attention on CUDA, in Triton, with the length kept on the device.
decode_step              Norms, rotary positions, and new keys and values to their place, on CUDA, in Triton.
decoding                 Codes of a checkpoint to numbers on CUDA, in Triton.
expert_rows              Where the rows of a layer's experts lie.
experts                  A mixture of experts on CUDA, in two kernels, in Triton.
norms                    Layer and root-mean-square norms, by whichever of the two is quicker.
packed_decode_attention  Decode attention on CUDA over a packed cache.
prompt_attention         Prompts by windows, caps and sinks, in Triton.
packing                  Packing and unpacking on CUDA, in Triton.
quantisation             Group-wise quantisation: tensors to packed bytes and back.
"""
