"""The paper's two DCGANs: 28×28 grey pictures of Fashion-MNIST, 256×256 coloured ones of a catalogue."""
