"""What each kernel does, in readable Python: the same classes, slower. Tests hold the kernels against these."""
