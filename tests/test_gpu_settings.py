"""What is set for a GPU, as far as a CPU can tell: padded heads, the softmax's kernel, TF32, the allocator."""

from __future__ import annotations

import pytest
import torch

from recbole_scale.errors import UserError
from recbole_scale.model import precision
from recbole_scale.model.layers import DecoderBlock, init_weights
from recbole_scale.model.softmax import softmax_kernel
from recbole_scale.training import group


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_padded_heads_give_the_same_numbers_from_the_same_checkpoint(rate):
    plain, padded = (DecoderBlock(100, 2, 64, attn_dropout=rate, pad_heads=pad) for pad in (False, True))
    torch.manual_seed(0)
    init_weights(plain, [plain], 0.3)
    for p in plain.parameters():
        p.data += 0.1 * torch.randn_like(p)  # biases too
    padded.load_state_dict(plain.state_dict())
    assert padded.attn.missing == 6 and plain.attn.missing == 0
    x, found = torch.randn(3, 7, 100), []
    for block in (plain, padded):
        torch.manual_seed(1)
        y = block(x)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad for p in block.parameters())])
        block.eval()
        found[-1].append(block(x, torch.tensor([6, 2, 0])).detach())
    for ours, twin in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, twin, rtol=1e-5, atol=1e-6 * float(twin.abs().max()))


def test_heads_of_a_multiple_of_8_need_no_padding():
    assert DecoderBlock(64, 4, 64, pad_heads=True).attn.missing == 0


def test_the_kernel_is_chosen_by_size_and_never_on_a_cpu(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for there in (True, False):
        monkeypatch.setattr(precision, "triton_is_there", lambda there=there: there)
        assert softmax_kernel("auto", 64, 26_427, cpu) == "chunks"
        assert softmax_kernel("auto", 64, 26_427, gpu) == ("triton" if there else "chunks")
        assert softmax_kernel("auto", 64, 1_000, gpu) == "chunks"
        assert softmax_kernel("auto", 512, 26_427, gpu) == "chunks"
        assert softmax_kernel("chunks", 64, 26_427, gpu) == "chunks"
    with pytest.raises(UserError, match="it is not installed"):
        softmax_kernel("triton", 64, 100, gpu)
    with pytest.raises(UserError, match="needs a GPU"):
        softmax_kernel("triton", 64, 100, cpu)
    monkeypatch.setattr(precision, "triton_is_there", lambda: True)
    assert softmax_kernel("triton", 256, 100, gpu) == "triton"
    with pytest.raises(UserError, match="up to hidden_size 256, but it is 1200"):
        softmax_kernel("triton", 1200, 100, gpu)


@pytest.mark.parametrize("tf32, expected", [(True, "high"), (False, "highest")])
def test_float32_products_are_what_was_set(monkeypatch, tf32, expected):
    for name in precision.ALLOCATOR:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    before = torch.get_float32_matmul_precision()
    try:
        precision.prepare_gpu(tf32)
        assert torch.get_float32_matmul_precision() == expected
        assert all(precision.os.environ[name] == "expandable_segments:True" for name in precision.ALLOCATOR)
        monkeypatch.delenv(precision.ALLOCATOR[0])
        monkeypatch.setenv(precision.ALLOCATOR[1], "backend:native")
        precision.prepare_gpu(tf32)
        assert precision.ALLOCATOR[0] not in precision.os.environ  # the user's own stays
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("use_gpu", [True, False])
def test_processes_with_gpus_meet_by_nccl_and_tell_each_other_objects_by_gloo(monkeypatch, use_gpu):
    told = {}
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(group.dist, "rendezvous", lambda *_: iter([(group.dist.HashStore(), 3, 4)]))
    monkeypatch.setattr(group.dist, "init_process_group", lambda backend, **more: told.update(more, backend=backend))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = {"local_rank": 1, "offset": 2, "world_size": 4, "nproc": 2, "ip": "127.0.0.1", "port": "1"}
    device = group.join(settings, use_gpu)
    assert (told["rank"], told["world_size"]) == (3, 4) and told["timeout"].total_seconds() == 1800
    assert told["backend"] == ("cpu:gloo,cuda:nccl" if use_gpu else "gloo")
    assert told["device_id"] == (torch.device("cuda", 1) if use_gpu else None)
    assert device == (torch.device("cuda", 1) if use_gpu else torch.device("cpu"))
