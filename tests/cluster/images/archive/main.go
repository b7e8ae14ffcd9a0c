// Makes an OCI image archive of one static program, without a registry or a builder:
//
//	archive IMAGE PROGRAM OUTPUT    an image of that name whose entry point is /PROGRAM
//
// The same program always gives the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// object is a JSON object; maps are written in the order of their keys.
type object map[string]any

const (
	indexType    = "application/vnd.oci.image.index.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
	// nobody is who the program runs as: a number, so that a pod can be held to not being root.
	nobody = "65532:65532"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "archive IMAGE PROGRAM OUTPUT")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "archive:", err)
		os.Exit(1)
	}
}

func write(image, program, output string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	entry := filepath.Base(program)
	layer, err := tarball([]file{{entry, content, 0o755}})
	if err != nil {
		return err
	}
	zipped, err := compress(layer)
	if err != nil {
		return err
	}

	var files []file
	// blob keeps the bytes under their digest and says how to refer to them.
	blob := func(kind string, content []byte) object {
		files = append(files, file{fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(content)), content, 0o644})
		return object{"mediaType": kind, "digest": digest(content), "size": len(content)}
	}
	platform := object{"os": "linux", "architecture": runtime.GOARCH}
	config := encode(object{
		"os": "linux", "architecture": runtime.GOARCH,
		"config": object{"Entrypoint": []string{"/" + entry}, "User": nobody},
		"rootfs": object{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	manifest := encode(object{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": blob(configType, config), "layers": []object{blob(layerType, zipped)},
	})
	named := blob(manifestType, manifest)
	named["platform"] = platform
	named["annotations"] = object{"io.containerd.image.name": image}
	index := encode(object{"schemaVersion": 2, "mediaType": indexType, "manifests": []object{named}})
	files = append(files,
		file{"index.json", index, 0o644},
		file{"oci-layout", encode(object{"imageLayoutVersion": "1.0.0"}), 0o644})

	archive, err := tarball(files)
	if err != nil {
		return err
	}
	return os.WriteFile(output, archive, 0o644)
}

type file struct {
	name    string
	content []byte
	mode    int64
}

func tarball(files []file) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, file := range files {
		header := &tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.content))}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(file.content); err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return buffer.Bytes(), err
}

func compress(content []byte) ([]byte, error) {
	var buffer bytes.Buffer
	writer := gzip.NewWriter(&buffer)
	if _, err := writer.Write(content); err != nil {
		return nil, err
	}
	err := writer.Close()
	return buffer.Bytes(), err
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

func encode(value object) []byte {
	content, err := json.Marshal(value)
	if err != nil {
		panic(err) // Strings, numbers and lists of them: it cannot fail.
	}
	return content
}
