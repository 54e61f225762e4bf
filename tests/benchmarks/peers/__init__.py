"""Ours against the engines that people would use instead, each as a server of its own on this machine."""
