//! A virtio disk that misbehaves on purpose: a vhost-user-blk backend that carries out fault scripts.
