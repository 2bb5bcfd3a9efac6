"""A transformer encoder in half precision, compared with the same on the CPU."""
import torch

torch.manual_seed(0)
layer = torch.nn.TransformerEncoderLayer(512, 8, 1024, batch_first=True)
model = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False).eval()
x = torch.randn(4, 64, 512)
with torch.inference_mode():
    expected = model(x)
    got = model.cuda().half()(x.cuda().half()).float().cpu()
error = (expected - got).abs().max().item()
assert error < 0.1, error
print(f"largest difference to the CPU {error:.4f}")
