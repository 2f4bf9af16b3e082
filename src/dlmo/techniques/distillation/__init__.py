"""Knowledge distillation: a student network learns from a teacher besides the labels.

What is compared: response.py (logits), feature.py (feature maps), relation.py (relations between images or layers).
Who teaches: offline.py (a trained network), online.py (one that learns at the same time), within.py (the network's
own deepest layer). settings.py lists the losses with their published settings and imports no torch.
"""
