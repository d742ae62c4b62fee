// Command versitygw serves directories as S3 buckets. It is the gateway of
// github.com/versity/versitygw, reduced to the needs of the tests.
//
//	versitygw ADDRESS DIRECTORY
//
// It serves the buckets in DIRECTORY/buckets and keeps its other state in DIRECTORY/attributes and
// DIRECTORY/iam.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "versitygw:", err)
		os.Exit(1)
	}
}

func serve(address, directory string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	defer stop()
	store, err := open(filepath.Join(directory, "buckets"), filepath.Join(directory, "attributes"))
	if err != nil {
		return err
	}
	return embedgw.RunVersityGW(ctx, store, &embedgw.Config{
		RootUserAccess: os.Getenv("ROOT_ACCESS_KEY"), RootUserSecret: os.Getenv("ROOT_SECRET_KEY"), IAMDir: filepath.Join(directory, "iam"),
		IAMCacheTTL: 3600, IAMCachePrune: 3600, // seconds; with 0 it would do nothing but prune
		Ports: []string{address}, MaxConnections: 2000, MaxRequests: 2000, MultipartMaxParts: 10_000, KeepAlive: true, Quiet: true,
	})
}

// open opens the directory of buckets. The attributes of objects are stored as extended attributes
// of their files. If the file system has no extended attributes, they are stored as files in the
// directory attributes.
func open(buckets, attributes string) (*posix.Posix, error) {
	options := posix.PosixOpts{NewDirPerm: 0o755, Concurrency: 100}
	if (meta.XattrMeta{}).Test(buckets) == nil {
		return posix.New(buckets, meta.XattrMeta{}, options)
	}
	sidecar, err := meta.NewSideCar(attributes)
	if err != nil {
		return nil, err
	}
	options.SideCarDir = attributes
	return posix.New(buckets, sidecar, options)
}
