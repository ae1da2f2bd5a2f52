// Notes reads what `attest witness` and `appliance log` write with Go's own transparency-log packages, which share no
// code with ours: golang.org/x/mod/sumdb/note and tlog.
//
//	notes KEPT GROWTH COSIGNED WITNESS_PUBLIC WITNESS_PRIVATE WITNESSED INTENT_INDEX INTENT_LEAF
//
// It checks that GROWTH proves COSIGNED to extend KEPT, that the witness cosigned it, that Go takes the private key, and
// that WITNESSED proves the intent to be in the tree. It prints the time of the cosignature.
package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// witness verifies lines of the kind cosignature/v1 (c2sp.org/tlog-cosignature).
type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
	time uint64
}

func (w *witness) Name() string    { return w.name }
func (w *witness) KeyHash() uint32 { return w.hash }
func (w *witness) Verify(text, line []byte) bool {
	if len(line) != 8+ed25519.SignatureSize {
		return false
	}
	w.time = binary.BigEndian.Uint64(line)
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", w.time, text)
	return ed25519.Verify(w.key, []byte(message), line[8:])
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func read(path string) string {
	data, err := os.ReadFile(path)
	must(err)
	return string(data)
}

func hash(text string) tlog.Hash {
	found, err := tlog.ParseHash(text)
	must(err)
	return found
}

func number(text string) int64 {
	found, err := strconv.ParseInt(text, 10, 64)
	must(err)
	return found
}

// head is size and root of a checkpoint.
func head(checkpoint string) (int64, tlog.Hash) {
	lines := strings.Split(checkpoint, "\n")
	return number(lines[1]), hash(lines[2])
}

func newWitness(public string) *witness {
	parts := strings.SplitN(strings.TrimSpace(public), "+", 3)
	id, err := strconv.ParseUint(parts[1], 16, 32)
	must(err)
	key, err := base64.StdEncoding.DecodeString(parts[2])
	must(err)
	if len(key) != 1+ed25519.PublicKeySize || key[0] != 4 {
		must(errors.New("expected a key of kind 4"))
	}
	return &witness{name: parts[0], hash: uint32(id), key: key[1:]}
}

func main() {
	kept, growth, cosigned := read(os.Args[1]), read(os.Args[2]), read(os.Args[3])
	seen := newWitness(read(os.Args[4]))

	oldSize, oldRoot := head(kept)
	size, root := head(cosigned)
	lines := strings.Split(strings.SplitN(growth, "\n\n", 2)[0], "\n")
	if lines[0] != fmt.Sprintf("old %d", oldSize) {
		must(errors.New("a proof from another size"))
	}
	var tree tlog.TreeProof
	for _, line := range lines[1:] {
		tree = append(tree, hash(line))
	}
	must(tlog.CheckTree(tree, size, root, oldSize, oldRoot))

	_, err := note.Open([]byte(cosigned), note.VerifierList(seen))
	must(err)
	signer, err := note.NewSigner(strings.TrimSpace(read(os.Args[5])))
	must(err)
	if signer.Name() != seen.name {
		must(errors.New("a private key of another name"))
	}

	var witnessed struct{ Intent []string }
	must(json.Unmarshal([]byte(read(os.Args[6])), &witnessed))
	var record tlog.RecordProof
	for _, line := range witnessed.Intent {
		record = append(record, hash(line))
	}
	leaf := tlog.RecordHash([]byte(read(os.Args[8])))
	must(tlog.CheckRecord(record, size, root, number(os.Args[7]), leaf))
	fmt.Println(seen.time)
}
