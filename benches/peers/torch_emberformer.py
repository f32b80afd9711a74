#!/usr/bin/env python3
"""EmberFormer in idiomatic PyTorch: the peer that the engine is measured against, and the oracle of its numerics.

It has the parameter names, shapes, losses and Adam of this engine, using the layers that a PyTorch
user would reach for, so a figure from here is what that user would get.

  bench   time whole training steps (forward, loss, backward, Adam, pixel counts) in several modes
  ops     time single operations (attention, loss, refinement stages, ...) forward and backward
  check   run one step from a safetensors file of weights and inputs and write logits, loss and gradients

Needs only torch (2.6 or newer); `check` also needs safetensors. Examples:
  python3 torch_emberformer.py bench --batch 4 16 64 --history 6 --modes eager,channels_last,compile,graph --json out.json
  python3 torch_emberformer.py ops --batch 16 --json ops.json
  python3 torch_emberformer.py check --in case.safetensors --out result.safetensors
"""
import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

SEGFORMER = {  # hidden sizes and decoder width of the published SegFormer variants
    "b0": ([32, 64, 160, 256], 256),
    "b1": ([64, 128, 320, 512], 256),
    "b2": ([64, 128, 320, 512], 768),
}


class TokenEmbedder(nn.Module):
    """fire + wind + static + position -> tokens [B, N, T, d]. Positions count from a sample's first real frame."""

    def __init__(self, d, static_channels, fire_inputs=1):
        super().__init__()
        self.d = d
        self.fire_embed = nn.Linear(fire_inputs, d)  # the burned fraction of a patch, or its P*P pixels
        self.wind_embed = nn.Sequential(nn.Linear(2, d // 2), nn.GELU(), nn.Linear(d // 2, d))
        self.static_embed = nn.Linear(static_channels, d)

    def positions(self, valid_t, dtype):
        age = valid_t.long().cumsum(1).sub(1).clamp_min(0).to(dtype)  # [B, T]
        rate = torch.exp(torch.arange(0, self.d, 2, device=valid_t.device, dtype=dtype) * (-math.log(10000.0) / self.d))
        angle = age[..., None] * rate
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)  # [B, T, d], sin on even, cos on odd

    def forward(self, fire, wind, static, valid_t):
        tokens = self.fire_embed(fire if fire.dim() == 4 else fire.unsqueeze(-1))
        tokens = tokens + self.wind_embed(wind).unsqueeze(1)
        tokens = tokens + self.static_embed(static).unsqueeze(2)
        return tokens + self.positions(valid_t, wind.dtype).unsqueeze(1).to(tokens.dtype)


class TemporalTransformer(nn.Module):
    """Post-norm encoder over the T frames of each patch; the last frame's features leave it: [B, N, d]."""

    def __init__(self, d, heads, layers, ff, dropout):
        super().__init__()
        layer = nn.TransformerEncoderLayer(d, heads, ff, dropout, activation="gelu", batch_first=True, norm_first=False)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, tokens, valid_t):
        b, n, t, d = tokens.shape
        pad = ~valid_t.unsqueeze(1).expand(b, n, t).reshape(b * n, t)
        out = self.transformer(tokens.reshape(b * n, t, d), src_key_padding_mask=pad)
        return out[:, -1].reshape(b, n, d)


class Projection(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.proj = nn.Linear(c_in, c_out)


class DecodeHead(nn.Module):
    """SegFormer's all-MLP decode head."""

    def __init__(self, sizes, width, dropout):
        super().__init__()
        self.linear_c = nn.ModuleList(Projection(c, width) for c in sizes)
        self.linear_fuse = nn.Conv2d(width * len(sizes), width, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, 1, 1)

    def forward(self, pyramid):
        size = pyramid[0].shape[-2:]
        maps = []
        for x, linear in zip(pyramid, self.linear_c):
            x = F.conv2d(x, linear.proj.weight[:, :, None, None], linear.proj.bias)
            maps.append(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        x = F.relu(self.batch_norm(self.linear_fuse(torch.cat(maps[::-1], dim=1))))
        return self.classifier(self.dropout(x))


class Holder(nn.Module):
    pass


class SpatialDecoder(nn.Module):
    def __init__(self, d, sizes, width, dropout):
        super().__init__()
        self.feature_projections = nn.ModuleList(nn.Conv2d(d, c, 1) for c in sizes)
        self.segformer = Holder()
        self.segformer.decode_head = DecodeHead(sizes, width, dropout)

    def forward(self, x):
        pyramid = []
        for i, proj in enumerate(self.feature_projections):
            f = proj(x)
            pyramid.append(F.avg_pool2d(f, 2**i, 2**i) if i else f)
        return self.segformer.decode_head(pyramid)


class RefinementDecoder(nn.Module):
    """Learned x2 upsampling stages from the patch grid to pixels."""

    def __init__(self, d, patch, base, input_projection, last_frame_skip=False):
        super().__init__()
        self.skip = int(last_frame_skip)
        stages = int(math.log2(patch))
        c_in, c_out = d + 1, base * 4
        if input_projection:
            self.input_proj = nn.Conv2d(c_in, base * 4, 1)
            c_in = base * 4
        else:
            self.input_proj = None
        layers = []
        for stage in range(stages):
            extra = self.skip if stage == stages - 1 else 0
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True),
                nn.Conv2d(c_out + extra, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True),
            ]
            c_in, c_out = c_out, max(base, c_out // 2)
        self.upsample_layers = nn.Sequential(*layers)
        self.output_conv = nn.Conv2d(c_in + self.skip, 1, 1)

    def forward(self, features, coarse, last=None):
        """last: [B, 1, H, W] mask of the last frame, where the skip is on."""
        x = torch.cat([features, coarse], dim=1)
        if self.input_proj is not None:
            x = self.input_proj(x)
        if not self.skip:
            return self.output_conv(self.upsample_layers(x))
        x = self.upsample_layers[:-3](x)
        x = self.upsample_layers[-3:](torch.cat([x, last.to(x.dtype)], dim=1))
        return self.output_conv(torch.cat([x, last.to(x.dtype)], dim=1))


class EmberFormer(nn.Module):
    def __init__(self, d=64, static_channels=8, heads=4, layers=3, ff=256, dropout=0.1, patch=8, base=32,
                 hidden_sizes=(32, 64, 160, 256), decoder_width=256, head_dropout=0.1, input_projection=False,
                 fire_embedding="mean", last_frame_skip=False):
        super().__init__()
        self.patch, self.pixels, self.skip = patch, fire_embedding == "pixels", last_frame_skip
        self.token_embedder = TokenEmbedder(d, static_channels, patch * patch if self.pixels else 1)
        self.temporal_transformer = TemporalTransformer(d, heads, layers, ff, dropout)
        self.spatial_decoder = SpatialDecoder(d, list(hidden_sizes), decoder_width, head_dropout)
        self.refinement_decoder = RefinementDecoder(d, patch, base, input_projection, last_frame_skip)

    def forward(self, fire, wind, static, valid_t, grid, frames=None):
        """fire [B, N, T]; wind [B, T, 2]; static [B, N, Cs]; valid_t [B, T]; frames [B, T, H, W] where the options need pixels."""
        b, n, t = fire.shape
        if self.pixels:
            p, (gy, gx) = self.patch, grid
            fire = frames.reshape(b, t, gy, p, gx, p).permute(0, 2, 4, 1, 3, 5).reshape(b, n, t, p * p).to(wind.dtype)
        x = self.temporal_transformer(self.token_embedder(fire, wind, static, valid_t), valid_t)
        x = x.transpose(1, 2).reshape(b, -1, *grid)
        return self.refinement_decoder(x, self.spatial_decoder(x), frames[:, -1:] if self.skip else None)


# --- losses: logits, target [B, 1, H, W] in float; mask [B, 1, H, W] bool -----------------------------------------

def focal_loss(z, y, m, alpha=0.25, gamma=2.0):
    bce = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    p = torch.sigmoid(z)
    p_t = p * y + (1 - p) * (1 - y)
    a_t = alpha * y + (1 - alpha) * (1 - y)
    return (a_t * (1 - p_t) ** gamma * bce * m).sum() / m.sum().clamp_min(1)


def tversky_loss(z, y, m, alpha=0.7, beta=0.3, smooth=1.0):
    p, y = torch.sigmoid(z) * m, y * m
    dims = (1, 2, 3)
    tp, fp, fn = (p * y).sum(dims), (p * (1 - y)).sum(dims), ((1 - p) * y).sum(dims)
    return (1 - (tp + smooth) / (tp + alpha * fp + beta * fn + smooth)).mean()


def bce_loss(z, y, m, pos_weight=None):
    if pos_weight == "auto":
        pos = (y * m).sum().clamp_min(1)
        pos_weight = ((m.sum() - pos).clamp_min(1) / pos).detach()
    bce = F.binary_cross_entropy_with_logits(z, y, reduction="none", pos_weight=pos_weight)
    return (bce * m).sum() / m.sum().clamp_min(1)


def dice_loss(z, y, m, smooth=1.0):
    p, y = torch.sigmoid(z) * m, y * m
    dims = (1, 2, 3)
    y_sum = y.sum(dims)
    dice = (2 * (p * y).sum(dims) + smooth) / (p.sum(dims) + y_sum + smooth)
    has_fire = (y_sum > 0).to(z.dtype)
    mean = ((1 - dice) * has_fire).sum() / has_fire.sum().clamp_min(1)
    return torch.where(has_fire.sum() > 0, torch.sqrt(mean + 1e-7), torch.zeros_like(mean))


def total_loss(kind, z, y, m, training=True):
    m = m.to(z.dtype)
    if kind == "focal_tversky":
        return 0.7 * focal_loss(z, y, m) + 0.3 * tversky_loss(z, y, m)
    return 0.9 * bce_loss(z, y, m, "auto" if training else None) + 0.1 * dice_loss(z, y, m)


# --- benchmarking ----------------------------------------------------------------------------------------------------

def make_batch(b, t, size, patch, static_channels, device, seed=0):
    g = torch.Generator().manual_seed(seed)
    side = size // patch
    n = side * side
    fire = (torch.rand(b, n, t, generator=g) * (torch.rand(b, n, 1, generator=g) < 0.05)).cumsum(-1).clamp(max=1)
    batch = dict(
        fire=fire, wind=torch.rand(b, t, 2, generator=g), static=torch.rand(b, n, static_channels, generator=g),
        valid_t=torch.ones(b, t, dtype=torch.bool),
        target=(torch.rand(b, 1, size, size, generator=g) < 0.05).float(),
        mask=torch.ones(b, 1, size, size, dtype=torch.bool),
    )
    return {k: v.to(device) for k, v in batch.items()}, (side, side)


def make_step(args, mode, batch, grid, device):
    torch.manual_seed(0)
    model = EmberFormer(patch=args.patch, static_channels=batch["static"].shape[-1]).to(device)
    if mode != "eager":
        model = model.to(memory_format=torch.channels_last)
    model.train()
    cuda = device.type == "cuda"
    opt = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=cuda, capturable=cuda)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[args.dtype]
    counts = torch.zeros(3, device=device, dtype=torch.float64)

    def forward_backward():
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            z = model(batch["fire"], batch["wind"], batch["static"], batch["valid_t"], grid)
        z = z.float()
        loss = total_loss(args.loss, z, batch["target"], batch["mask"])
        loss.backward()
        with torch.no_grad():
            p, y = (z > 0) & batch["mask"], batch["target"] > 0.05
            counts.add_(torch.stack([(p & y).sum(), (p & ~y).sum(), (~p & y & batch["mask"]).sum()]).double())
        return loss.detach()

    if mode == "compile":
        forward_backward = torch.compile(forward_backward, mode="max-autotune-no-cudagraphs")

    def step():
        opt.zero_grad(set_to_none=mode != "graph")
        loss = forward_backward()
        opt.step()
        return loss

    if mode in ("graph", "compile") and cuda:  # both end as one captured graph: no launch overhead is left in either
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(4):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        opt.zero_grad(set_to_none=False)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.zero_()
            static_loss = forward_backward()
            opt.step()

        def step():
            graph.replay()
            return static_loss

    return step


def timed(fn, device, warmup, runs):
    for _ in range(warmup):
        fn()
    times = []
    for _ in range(runs):
        if device.type == "cuda":
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            fn()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            t0 = time.perf_counter()
            fn()
            times.append((time.perf_counter() - t0) * 1e3)
    return statistics.median(times), min(times), max(times)


def bench(args):
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    rows = []
    for b in args.batch:
        batch, grid = make_batch(b, args.history, args.size, args.patch, 8, device)
        for mode in args.modes.split(","):
            row = dict(batch=b, history=args.history, size=args.size, patch=args.patch, mode=mode, dtype=args.dtype, loss=args.loss)
            try:
                if device.type == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                median, low, high = timed(make_step(args, mode, batch, grid, device), device, args.warmup, args.runs)
                row.update(ms=median, ms_min=low, ms_max=high, samples_per_s=b / median * 1e3)
                if device.type == "cuda":
                    row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
            except Exception as e:  # one mode that fails must not hide the others
                row["error"] = f"{type(e).__name__}: {e}"[:300]
            print(json.dumps(row), flush=True)
            rows.append(row)
            torch._dynamo.reset()
    return dict(torch=torch.__version__, device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu", rows=rows)


def ops(args):
    """Single operations, forward + backward, each the way PyTorch users write it (bf16, channels_last)."""
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cudnn.benchmark = True
    b, t, size, patch = args.batch[0], args.history, args.size, args.patch
    side, d, heads = size // patch, 64, 4
    n = side * side
    dtype = torch.bfloat16
    rows = []

    def run(name, fn, inputs, flops=0, forward_only=False):
        inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]

        def fwd():
            return fn(*inputs)

        def both():
            out = fwd()
            out.backward(torch.ones_like(out))
            for x in inputs:
                x.grad = None

        for label, f in (("forward", lambda: fwd().detach()), ("forward+backward", both)):
            for how in ("eager", "compile"):
                g = torch.compile(f) if how == "compile" else f
                try:
                    ms, low, high = timed(g, device, args.warmup, args.runs)
                    row = dict(op=name, what=label, how=how, ms=ms, ms_min=low, ms_max=high)
                except Exception as e:
                    row = dict(op=name, what=label, how=how, error=f"{type(e).__name__}: {e}"[:200])
                print(json.dumps(row), flush=True)
                rows.append(row)
                torch._dynamo.reset()

    def rand(*shape, dt=dtype):
        return torch.randn(*shape, device=device, dtype=dt)

    q = [rand(b * n, heads, t, d // heads) for _ in range(3)]
    run("temporal attention (SDPA)", lambda q, k, v: F.scaled_dot_product_attention(q, k, v), q)
    embed = TokenEmbedder(d, 8).to(device)
    valid_t = torch.ones(b, t, dtype=torch.bool, device=device)

    def embed_fn(fire, wind, static):
        with torch.autocast(device.type, dtype=dtype):
            return embed(fire, wind, static, valid_t)

    run("patch embedding", embed_fn, [torch.rand(b, n, t, device=device), torch.rand(b, t, 2, device=device), torch.rand(b, n, 8, device=device)])
    target = (torch.rand(b, 1, size, size, device=device) < 0.05).float()
    mask = torch.ones(b, 1, size, size, dtype=torch.bool, device=device)
    for kind in ("focal_tversky", "bce_dice"):
        run(f"loss {kind}", lambda z, kind=kind: total_loss(kind, z.float(), target, mask), [rand(b, 1, size, size)])
    c_in, c_out, s = d + 1, 128, side
    for stage in range(int(math.log2(patch))):
        up = nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False).to(device, memory_format=torch.channels_last)
        conv = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False).to(device, memory_format=torch.channels_last)
        bn1, bn2 = nn.BatchNorm2d(c_out).to(device), nn.BatchNorm2d(c_out).to(device)

        def stage_fn(x, up=up, conv=conv, bn1=bn1, bn2=bn2):
            with torch.autocast(device.type, dtype=dtype):
                return F.relu(bn2(conv(F.relu(bn1(up(x))))))

        run(f"refinement stage {stage} ({c_in}->{c_out}, {s}->{2 * s})", stage_fn, [rand(b, c_in, s, s).to(memory_format=torch.channels_last)])
        c_in, c_out, s = c_out, max(32, c_out // 2), 2 * s
    layer = nn.TransformerEncoderLayer(d, heads, 256, 0.1, activation="gelu", batch_first=True).to(device)

    def layer_fn(x):
        with torch.autocast(device.type, dtype=dtype):
            return layer(x)

    run("transformer layer", layer_fn, [rand(b * n, t, d)])
    return dict(torch=torch.__version__, device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                batch=b, history=t, size=size, patch=patch, rows=rows)


def check(args):
    """Oracle: weights under their names, inputs under 'input.*', settings in the metadata key 'case' (JSON)."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    tensors = {}
    with safe_open(args.input, "pt") as f:
        case = json.loads(f.metadata()["case"])
        for k in f.keys():
            tensors[k] = f.get_tensor(k)
    model = EmberFormer(**case["model"], dropout=0.0, head_dropout=0.0).to(torch.float64)
    state = {k: v.to(torch.float64) for k, v in tensors.items() if not k.startswith(("input.", "expected."))}
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [k for k in missing if "running" not in k and "num_batches" not in k]
    assert not missing and not unexpected, (missing, unexpected)
    x = {k[6:]: v for k, v in tensors.items() if k.startswith("input.")}
    model.train(case["training"])
    z = model(x["fire"].double(), x["wind"].double(), x["static"].double(), x["valid_t"].bool(), tuple(case["grid"]), x["fire_pixels"].double())
    mask = x["valid"].bool().view(-1, 1, *case["grid"])
    mask = mask.repeat_interleave(case["model"]["patch"], -1).repeat_interleave(case["model"]["patch"], -2)
    loss = total_loss(case["loss"], z, x["target"].double(), mask, case["training"])
    loss.backward()
    out = {"logits": z.detach(), "loss": loss.detach().reshape(1)}
    out.update({f"grad.{k}": p.grad for k, p in model.named_parameters()})
    save_file({k: v.contiguous() for k, v in out.items()}, args.out)
    print(json.dumps(dict(loss=loss.item(), parameters=sum(p.numel() for p in model.parameters()))))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = ap.add_subparsers(dest="cmd", required=True)
    for name in ("bench", "ops"):
        p = sub.add_parser(name)
        p.add_argument("--batch", type=int, nargs="+", default=[4])
        p.add_argument("--history", type=int, default=6)
        p.add_argument("--size", type=int, default=400)
        p.add_argument("--patch", type=int, default=8)
        p.add_argument("--modes", default="eager,channels_last,compile,graph")
        p.add_argument("--dtype", choices=["bf16", "fp16", "fp32"], default="bf16")
        p.add_argument("--loss", choices=["focal_tversky", "bce_dice"], default="focal_tversky")
        p.add_argument("--device")
        p.add_argument("--warmup", type=int, default=10)
        p.add_argument("--runs", type=int, default=30)
        p.add_argument("--json")
    p = sub.add_parser("check")
    p.add_argument("--in", dest="input", required=True)
    p.add_argument("--out", required=True)
    args = ap.parse_args()
    result = {"bench": bench, "ops": ops, "check": check}[args.cmd](args)
    if result is not None and args.json:
        with open(args.json, "w") as f:
            json.dump(result, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
