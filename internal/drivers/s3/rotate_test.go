package s3

import (
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func TestKeys_AreReadForEachBatch(t *testing.T) {
	server := peers.S3(t)
	path := newPrefix(server.Bucket(t))
	files := sinktest.NewRotation(t)
	put := func(id, secret string) {
		files.Put("id", []byte(id+"\n"))
		files.Put("secret", []byte(secret+"\n"))
	}
	put(peers.S3Key, peers.S3Secret)
	s, err := files.Open(Driver(),
		"s3://"+server.Addr()+"/"+path+"?access-key-id="+files.Placeholder("id")+"&secret-access-key="+files.Placeholder("secret"),
		sink.Env{})
	files.Works("the right key", err)
	files.Works("a batch", s.Apply(t.Context(), sinktest.Batch(order(t, 1))))
	put("AKIAANOTHER", peers.S3Secret)
	files.Waits("another key", s.Apply(t.Context(), sinktest.Batch(order(t, 2))), "InvalidAccessKeyId", peers.S3Secret)
	put(peers.S3Key, "WRONG")
	files.Waits("another secret", s.Apply(t.Context(), sinktest.Batch(order(t, 2))), "SignatureDoesNotMatch", "WRONG", peers.S3Secret)
	put(peers.S3Key, peers.S3Secret)
	files.Works("the right key again", s.Apply(t.Context(), sinktest.Batch(order(t, 2))))
	if got := stored(t, at(server.Addr(), path, "")); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
}
