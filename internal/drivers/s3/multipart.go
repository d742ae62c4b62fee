package s3

import (
	"context"
	"io"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"
)

const (
	// partSize is the size of a part, in bytes. It is large enough for objects of 160 GB, since S3
	// allows 10,000 parts. It is small enough for eds to send a part again after a failure.
	partSize = 16 << 20
	// partsAtOnce is the maximum number of parts of an object that are uploaded concurrently.
	partsAtOnce = 4
)

// upload uploads size bytes of r as an object. It uses a multipart upload if there would be more
// than two parts.
func (s *bucketStore) upload(ctx context.Context, key, contentType string, r io.ReaderAt, size int64) error {
	if size <= 2*partSize {
		return s.putFrom(ctx, key, contentType, io.NewSectionReader(r, 0, size), size)
	}
	id, err := s.beginUpload(ctx, key, contentType)
	if err != nil {
		return err
	}
	err = s.uploadParts(ctx, key, id, r, size)
	if err != nil {
		// After the first abort, the store may still accept a part that was in flight, so abort
		// twice. If both aborts fail, a lifecycle rule of the bucket removes the parts.
		for range 2 {
			_ = s.abortUpload(context.WithoutCancel(ctx), key, id)
		}
	}
	return err
}

func (s *bucketStore) uploadParts(ctx context.Context, key, id string, r io.ReaderAt, size int64) error {
	parts := make([]types.CompletedPart, (size+partSize-1)/partSize)
	group, uploading := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i := range parts {
		group.Go(func() error {
			offset := int64(i) * partSize
			var err error
			parts[i], err = s.uploadPart(uploading, key, id, int32(i+1), io.NewSectionReader(r, offset, min(partSize, size-offset)))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return s.completeUpload(ctx, key, id, size, parts...)
}

// completeUpload joins the parts of a multipart upload into an object of size bytes.
func (s *bucketStore) completeUpload(ctx context.Context, key, id string, size int64, parts ...types.CompletedPart) error {
	ctx, cancel := s.withTimeout(ctx, size)
	defer cancel()
	_, err := s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &s.bucket, Key: &key, UploadId: &id, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	return s.classify(err)
}

func (s *bucketStore) uploadPart(ctx context.Context, key, id string, number int32, r *io.SectionReader) (types.CompletedPart, error) {
	size := r.Size()
	ctx, cancel := s.withTimeout(ctx, size)
	defer cancel()
	input := &s3.UploadPartInput{Bucket: &s.bucket, Key: &key, UploadId: &id, PartNumber: &number, Body: r, ContentLength: &size}
	if s.checksums {
		input.ChecksumAlgorithm = types.ChecksumAlgorithmCrc32
	}
	part, err := s.client.UploadPart(ctx, input)
	if err != nil {
		return types.CompletedPart{}, s.classify(err)
	}
	return types.CompletedPart{
		PartNumber: &number, ETag: part.ETag, ChecksumCRC32: part.ChecksumCRC32, ChecksumCRC32C: part.ChecksumCRC32C,
		ChecksumCRC64NVME: part.ChecksumCRC64NVME, ChecksumSHA1: part.ChecksumSHA1, ChecksumSHA256: part.ChecksumSHA256,
	}, nil
}
