"""Layer maths, one file a family; torch only, knowing no placement."""
