package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// maxSocketPath is the maximum length of a socket's path, in bytes. Every supported system
// allows a path of this length.
const maxSocketPath = 100

// socket returns the path of the control socket for a data directory.
func socket(dataDir string) string {
	path := filepath.Join(dataDir, "eds.sock")
	if len(path) <= maxSocketPath {
		return path
	}
	sum := sha256.Sum256([]byte(dataDir))
	return filepath.Join(os.TempDir(), "eds-"+hex.EncodeToString(sum[:8])+".sock")
}

// Listen opens the control socket for a data directory, and permits access only to the socket's
// owner. The caller must hold the lock of the directory. Therefore an existing socket was created
// by a server that has ended, and Listen removes the socket.
func Listen(ctx context.Context, dataDir string) (net.Listener, error) {
	path := socket(dataDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open the control socket: %w", err), listener.Close())
	}
	return listener, nil
}
